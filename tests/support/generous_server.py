"""Runs the fedsite command with a server that counts nobody's certificates: a test asks for more than a site does."""

from fedsite.server.web import limits

if __name__ == "__main__":
    many = limits.Allowance(burst=1000, per_second=100, at_once=8)
    limits.DEFAULT_LIMITS = limits.Limits(requests=many, certificates=many)
    from fedsite.cli.main import main

    main()
