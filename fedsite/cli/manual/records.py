"""The manual of a site's records: privacy and audit."""

from fedsite.cli.manual.page import Page, ends
from fedsite.cli.manual.site import ASKS, OPENS

LEDGER = "The ledger in the state folder."

PRIVACY = {
    "privacy show": Page(
        about=(
            "Epsilon is per patient (add or remove one), over the lifetime of the ledger. What binds is a Renyi"
            " filter; the tighter number for this fixed sequence stands beside it."
        ),
        examples={
            "fedsite privacy show": "",
            "fedsite privacy show --json": "data.epsilon, data.left, data.delta and others.",
        },
        reads=LEDGER,
        exits=ends(*OPENS),
        see=("privacy forecast", "privacy history"),
    ),
    "privacy history": Page(
        examples={"fedsite privacy history": "", "fedsite privacy history --calendar": "What each month has cost."},
        reads=LEDGER,
        exits=ends(*OPENS),
        see=("privacy show", "audit show"),
    ),
    "privacy forecast": Page(
        examples={
            "fedsite privacy forecast": "",
            "fedsite privacy forecast --rounds 50": "Also: what noise multiplier makes it last 50 rounds more.",
        },
        reads=LEDGER + " The plan of the newest round that this site has met.",
        exits=ends(*OPENS),
        see=("privacy plan", "privacy cost"),
    ),
    "privacy plan": Page(
        about="For a ledger that is yet to be made; it needs no site. dp-sgd needs all options on its steps.",
        examples={
            "fedsite privacy plan --rounds 50 --epsilon 8 --batch-patients 8 \\\n"
            "    --nominal-patients 200 --steps 40": "dp-sgd: 8 of 200 patients in each of 40 steps a round.",
            "fedsite privacy plan --rounds 50 --epsilon 8 --mechanism gaussian-update": "One release a round.",
        },
        exits=ends(),
        see=("privacy cost", "init"),
    ),
    "privacy cost": Page(
        about=(
            "In closed form where every patient is in each step (sampling rate 1), else by privacy loss"
            " distributions; the Renyi bound stands beside it. It needs no site, and nothing is charged."
        ),
        examples={
            "fedsite privacy cost --noise-multiplier 1 --sampling-rate 0.04 --steps 800 \\\n"
            "    --delta 1e-6": "800 steps, each of 4% of the patients.",
            "fedsite privacy cost --noise-multiplier 5 --delta 1e-6": "One release of all patients.",
        },
        exits=ends(),
        see=("privacy plan",),
    ),
    "privacy recover": Page(
        about=(
            "After a ledger was damaged, lost, or brought back from an older copy. Bring back the newest state"
            " folder first, if there is one: what nobody can prove takes all that the budget has left. Harmless to"
            " repeat."
        ),
        examples={"fedsite privacy recover": ""},
        writes="The ledger and the audit; what was damaged is kept in damaged/ of the state folder.",
        network="The server: what it has had of this site.",
        exits=ends(*ASKS),
        see=("privacy show", "enroll"),
    ),
    "privacy export": Page(
        about="The file holds no key and nothing of patients. Anyone verifies it, without a site.",
        examples={
            "fedsite privacy export --out ledger.json": "",
            "fedsite audit verify ledger.json": "What the auditor runs, anywhere.",
        },
        reads="The ledger, plans and receipts in the state folder.",
        writes="The file of --out.",
        exits=ends(*OPENS),
        see=("audit verify", "audit export"),
    ),
    "privacy attack": Page(
        about=(
            "Three attacks, raw against released: an audit of the mechanism with made-up patients, the inversion of"
            " one patch's gradient, and who took part. They show a lower bound and see factors of 2 to 3; they prove"
            " nothing. It takes minutes; nothing is sent or charged."
        ),
        examples={
            "fedsite privacy attack": "Under the newest plan that this site has met.",
            "fedsite privacy attack --plan plan.yaml": "Under a plan before anyone agrees to it.",
        },
        reads="The prepared data.",
        writes="reports/attacks.html in the state folder, or the file of --report; it holds patients' images.",
        exits=ends(65, 66, *OPENS) | {1: "An attack found more than is stated; or a bug in fedsite."},
        see=("train-round", "privacy cost"),
    ),
}

AUDIT = {
    "audit show": Page(
        examples={"fedsite audit show": "", "fedsite audit show --last 5": "The five newest."},
        reads="The audit in the state folder.",
        exits=ends(*OPENS),
        see=("audit verify", "audit export"),
    ),
    "audit verify": Page(
        about=(
            "With FILE it needs no site. Without --key a file only proves that it agrees with itself: the key must"
            " come from the site by another way."
        ),
        examples={
            "fedsite audit verify": "This site's own records.",
            "fedsite audit verify --since audit.jsonl --server": "Against an older export, and the server.",
            "fedsite audit verify audit.jsonl --key KEY": "An export, anywhere; KEY as identity show has it.",
        },
        reads="The state folder, or FILE.",
        network="None; with --server the federation's server.",
        exits=ends(65, 66, 69, 73, 75, 77, 78)
        | {
            74: "A record is altered, missing or out of order; the message names the first.",
            76: "The server does not know receipts that this site holds.",
        },
        see=("audit export", "privacy recover"),
    ),
    "audit export": Page(
        examples={
            "fedsite audit export audit.jsonl": "The records, for an auditor.",
            "fedsite audit export --report audit.html": "A page for an ethics board.",
        },
        reads="The state folder.",
        writes="FILE (JSON Lines, signed by a key for this alone), and the file of --report.",
        exits=ends(*OPENS),
        see=("audit verify", "privacy export"),
    ),
    "audit tickets": Page(
        about="Two sites that trust each other exchange the files by mail; neither holds anything of patients.",
        examples={
            "fedsite audit tickets --out north.json": "At the one site.",
            "fedsite audit tickets north.json": "At the other.",
        },
        reads="The state folder; FILE.",
        writes="The file of --out.",
        exits=ends(65, 66, *OPENS) | {76: "The server has shown two truths; both files together prove it."},
        see=("audit verify",),
    ),
}

PAGES = PRIVACY | AUDIT
