"""The manual of the coordinator: server and model."""

from fedsite.cli.manual.page import Page, ends

OPENS = (65, 66, 73, 75, 78)
"""How opening a federation may end: no folder, or a damaged one; a database that is busy, away, or too old or new."""
FOLDER = "The federation's folder (--dir) and its database."
HERE = "--dir /srv/fedsite"

SERVER = {
    "server init": Page(
        about="The folder holds the federation's keys: nobody else may read it. Sites connect to --name at --url.",
        examples={
            "fedsite server init /srv/fedsite --federation stroke-north \\\n"
            "    --name federation.example.org --agreement agreement.txt": "",
            "fedsite server init /srv/fedsite --federation stroke-north \\\n"
            "    --name federation.example.org --ca-key issuing.key --ca-chain issuing.pem": "Below another root.",
        },
        reads="The files of --agreement, --ca-key and --ca-chain.",
        writes="DIR: keys, database, settings.",
        exits=ends(66, 73, 75, 78),
        see=("server run", "server invite"),
    ),
    "server run": Page(
        about=(
            "One process for one federation; give it to a service manager. SIGTERM ends it once what is under way"
            " has ended; sites go on when it is back. Rounds are closed by it, at their deadlines."
        ),
        examples={
            f"fedsite server run {HERE}": "",
            f"fedsite server run --port 443 --metrics-port 9464 --log-format json \\\n    {HERE}": "With metrics for"
            " Prometheus.",
        },
        reads=FOLDER,
        writes="The same.",
        network="Listens on --host, --port for sites (TLS), and on 127.0.0.1, --metrics-port for Prometheus.",
        exits=ends(*OPENS) | {73: "The port is taken or forbidden, or the disk is full."},
        see=("server invite", "server round open", "server backup"),
    ),
    "server invite": Page(
        about="The line is a secret that works once. An enrolled site may be invited again: its ledger stays.",
        examples={
            f"fedsite server invite st-mary {HERE}": "",
            f"fedsite server invite st-mary --expires 7d --approve {HERE}": "A person says yes to its key.",
        },
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("enroll", "server site approve"),
    ),
    "server backup": Page(
        about="While the server runs. The backup holds the federation's keys: guard it as you guard them.",
        examples={f"fedsite server backup /backup/stroke {HERE}": "From cron, as often as rounds may be lost."},
        reads=FOLDER,
        writes="TO; one that breaks off leaves the backup before.",
        exits=ends(*OPENS),
        see=("server restore",),
    ),
    "server restore": Page(
        about="Never run two copies of one federation. Sites that know a later round refuse an older one (76).",
        examples={"fedsite server restore /backup/stroke /srv/restored": ""},
        reads="BACKUP.",
        writes="DIR; with --database that PostgreSQL.",
        exits=ends(*OPENS),
        see=("server backup", "server run"),
    ),
    "server upgrade": Page(
        about="All of it happens, or nothing. Of PostgreSQL it wants to hear that it was dumped.",
        examples={
            f"fedsite server upgrade {HERE}": "",
            f"fedsite server upgrade --dumped {HERE}": "PostgreSQL, after pg_dump.",
        },
        reads=FOLDER,
        writes="The database; federation.before-REVISION.db, a copy of SQLite's.",
        exits=ends(*OPENS),
        see=("server backup",),
    ),
    "server authority show": Page(
        examples={f"fedsite server authority show {HERE}": ""},
        reads=FOLDER,
        exits=ends(*OPENS),
        see=("server authority replace",),
    ),
    "server authority replace": Page(
        about="Only an intermediate of the root that sites have pinned is taken. Restart the server afterwards.",
        examples={f"fedsite server authority replace --ca-key next.key --ca-chain next.pem \\\n    {HERE}": ""},
        reads="The files of --ca-key and --ca-chain.",
        writes="keys/ in the federation's folder.",
        exits=ends(*OPENS),
        see=("server authority show", "server run"),
    ),
}

SITES = {
    "server site list": Page(
        examples={f"fedsite server site list {HERE}": "", f"fedsite server site list --json {HERE}": "For programs."},
        reads=FOLDER,
        exits=ends(*OPENS),
        see=("server site approve", "server round list"),
    ),
    "server site approve": Page(
        examples={f"fedsite server site approve st-mary {HERE}": "Once both numbers were compared by telephone."},
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server site list", "enroll"),
    ),
    "server site import": Page(
        examples={f"fedsite server site import st-mary st-mary.pem {HERE}": ""},
        reads="CERTIFICATE.",
        writes="The database.",
        exits=ends(*OPENS),
        see=("enroll",),
    ),
    "server site revoke": Page(
        about="Updates that were accepted before stay, and are marked; leave them out with round close --without.",
        examples={f"fedsite server site revoke st-mary {HERE}": ""},
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server site list", "server round close", "server invite"),
    ),
}

ROUNDS = {
    "server round open": Page(
        about=(
            "One series of rounds runs at a time: a second is refused while a round of the first is under way, and"
            " ends it where it is paused. A plan cannot be changed once it is signed."
        ),
        examples={
            f"fedsite server round open plan.yaml --model model0.safetensors \\\n    --rounds 20 {HERE}": "",
        },
        reads="PLAN.yaml (sample_configs/plan.yaml shows every key), the model, the file of --task.",
        writes="The database; models/.",
        exits=ends(*OPENS),
        see=("model init", "server round show", "server round pause"),
    ),
    "server round list": Page(
        examples={f"fedsite server round list {HERE}": ""},
        reads=FOLDER,
        exits=ends(*OPENS),
        see=("server round show", "server round resume"),
    ),
    "server round show": Page(
        about=(
            "With --watch it is drawn anew as it goes on, and shown once more at its end; where stderr is no"
            " terminal, what changes is told line by line."
        ),
        examples={
            f"fedsite server round show 7 {HERE}": "",
            f"fedsite server round show 7 --watch {HERE}": "Until it has ended.",
        },
        reads=FOLDER,
        exits=ends(*OPENS) | {75: "The database is busy or away; or the round's time is over and no server runs."},
        see=("server round report", "server round release"),
    ),
    "server round report": Page(
        about="Neither loss nor Dice is on it: nothing that was measured on patients leaves a site.",
        examples={f"fedsite server round report 7 --output round7.html {HERE}": ""},
        reads=FOLDER,
        writes="The file of --output.",
        exits=ends(*OPENS),
        see=("server round show", "model show"),
    ),
    "server round close": Page(
        about="With --without its model is made without what a site has sent, say one that was revoked since.",
        examples={
            f"fedsite server round close 7 {HERE}": "",
            f"fedsite server round close 7 --without site-b {HERE}": "",
        },
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server round abort", "server site revoke"),
    ),
    "server round release": Page(
        examples={
            f"fedsite server round release 7 {HERE}": "With all updates.",
            f"fedsite server round release 7 --without mallory {HERE}": "",
        },
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server round show",),
    ),
    "server round abort": Page(
        about="Asks first on a terminal. The updates of the three newest rounds without a model are kept.",
        examples={f'fedsite server round abort 7 --reason "wrong scanner" --yes \\\n    {HERE}': "Without a question."},
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server round resume", "server round close"),
    ),
    "server round pause": Page(
        about=(
            "Sites that have had the open round may finish it, since they may have paid for it. Others get nothing"
            " to do, but with --after-this-round."
        ),
        examples={f"fedsite server round pause {HERE}": ""},
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server round resume",),
    ),
    "server round resume": Page(
        about="A failed round counts among the series' rounds; sites have paid for it, so look before you resume.",
        examples={f"fedsite server round resume {HERE}": ""},
        reads=FOLDER,
        writes="The database.",
        exits=ends(*OPENS),
        see=("server round list", "server round pause"),
    ),
}

MODELS = {
    "model init": Page(
        about="Needs torch and no federation: make it anywhere, and carry the file to the server.",
        examples={"fedsite model init plan.yaml -o model0.safetensors": ""},
        reads="PLAN.yaml; the file of --task.",
        writes="The file of --output.",
        exits=ends(65, 66, 73, 78),
        see=("server round open",),
    ),
    "model list": Page(
        examples={f"fedsite model list {HERE}": ""}, reads=FOLDER, exits=ends(*OPENS), see=("model show",)
    ),
    "model show": Page(
        examples={
            f"fedsite model show --round 7 {HERE}": "",
            f"fedsite model show 3f2a91 {HERE}": "By its first digits.",
        },
        reads=FOLDER,
        exits=ends(*OPENS),
        see=("model export", "server round report"),
    ),
    "model export": Page(
        examples={f"fedsite model export --round 20 -o model20.safetensors {HERE}": ""},
        reads=FOLDER,
        writes="The file of --output.",
        exits=ends(*OPENS),
        see=("model bundle", "model show"),
    ),
    "model bundle": Page(
        about=(
            "It names no site, and finds what fedsite predict finds. Under fedbn and personal no model of the"
            " server's is whole, and none is bundled."
        ),
        examples={f"fedsite model bundle --round 20 -o stroke-model {HERE}": ""},
        reads=FOLDER,
        writes="The folder of --output: weights, workflow, metadata with the lineage, fedsite's own preparation.",
        exits=ends(*OPENS),
        see=("model export", "predict"),
    ),
}

PAGES = SERVER | SITES | ROUNDS | MODELS
