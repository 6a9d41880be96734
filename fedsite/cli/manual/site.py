"""The manual of a site: setting up, data, rounds, models; and what holds for all commands."""

from fedsite.cli.manual.page import Page, ends

OPENS = (73, 74, 75, 77, 78)
"""How opening a site may end: its configuration, its state folder, its ledger; an older fedsite's, its backup."""
ASKS = (*OPENS, 69, 76)
"""The same, and a question to the server."""

FIRST_ROUND = (
    "fedsite init --state /var/lib/fedsite/state --data /var/lib/fedsite/data",
    "fedsite enroll --invitation st-mary.invitation",
    "fedsite prepare-data /data/export --task stroke-dwi --labels /data/masks",
    "fedsite check",
    "fedsite train-round --dry-run",
    "fedsite train-round",
    "fedsite schedule install --every 6h --window 20:00-06:00",
)
FILES = {
    "site.yaml": "The configuration: the file of --config, else of $FEDSITE_CONFIG, else ~/.config/fedsite/site.yaml,"
    " else /etc/fedsite/site.yaml; never one in the current folder.",
    "paths.state": "The state folder that it names: ledger, audit, identity, models, pages. Back it up.",
    "paths.data": "The folder of prepared cases that it names.",
}
ENVIRONMENT = {
    "FEDSITE_CONFIG": "The configuration, where --config does not name one.",
    "FEDSITE_SECTION__KEY": "Overrides section.key of site.yaml, except paths.state and those of policy, privacy,"
    " notifications and hooks.",
    "NO_COLOR": "No colours.",
}

SET_UP = {
    "init": Page(
        about=(
            "The budget, delta and the number of patients are the site's promise to its patients: they cannot be"
            " changed later. What no option says is asked on a terminal. A configuration that is there already is"
            " never written over."
        ),
        examples={
            "fedsite init": "Asks for everything; site.yaml goes to ~/.config/fedsite.",
            "fedsite init --config /etc/fedsite/site.yaml --epsilon 8 --delta 1e-6 \\\n"
            "    --nominal-patients 200 --state /var/lib/fedsite/state \\\n"
            "    --data /var/lib/fedsite/data": "Asks nothing.",
        },
        writes="site.yaml (with a comment for each key) and the state folder, which only this user may read.",
        exits=ends(73, 78),
        see=("enroll", "config explain", "privacy plan"),
    ),
    "enroll": Page(
        about=(
            "The private key is made on this machine and stays there. The invitation is a secret: it is read from a"
            " file, from stdin or unseen from a terminal, never from the command line.\n\n"
            "Once enrolled, the same command shows the agreement again, or takes a new certificate with a new"
            " invitation; the ledger stays."
        ),
        examples={
            "fedsite enroll --invitation st-mary.invitation": "On a terminal it asks who accepts the agreement.",
            'fedsite enroll --accept-agreement "A. Person"': "Records who accepts the federation's agreement.",
            "fedsite enroll --csr-only st-mary.csr": "Only writes a request, for the hospital's own authority.",
        },
        reads="site.yaml; the file of --invitation.",
        writes="identity/ in the state folder; the audit.",
        network="The server that the invitation names.",
        exits=ends(66, *ASKS) | {75: "The coordinator must approve this key first: compare its SHA-256 by telephone."},
        see=("check", "identity show", "server invite"),
    ),
    "config show": Page(
        examples={
            "fedsite config show": "",
            "FEDSITE_TRAINING__DEVICE=cpu fedsite config show": "What a variable would change.",
        },
        reads="site.yaml; FEDSITE_SECTION__KEY in the environment.",
        exits=ends(78),
        see=("config explain", "config validate"),
    ),
    "config validate": Page(
        about="Looks at the file alone: whether its folders and programs are there is for fedsite check.",
        examples={"fedsite config validate --config new.yaml": "Before a new file is put into use."},
        reads="site.yaml.",
        exits=ends(78),
        see=("check", "config schema"),
    ),
    "config schema": Page(
        examples={"fedsite config schema > site.schema.json": "For an editor that completes and checks YAML."},
        exits=ends(),
        see=("config explain",),
    ),
    "config explain": Page(
        about="Of a section, such as policy, it says what the section is about and which keys it has.",
        examples={"fedsite config explain policy.hours": "", "fedsite config explain policy": "All keys of a section."},
        exits=ends(),
        see=("config show",),
    ),
    "identity show": Page(
        about="Shows no secret. The audit key is what an auditor holds an exported audit against.",
        examples={"fedsite identity show": ""},
        reads="identity/ in the state folder.",
        exits=ends(*OPENS),
        see=("identity renew", "audit export"),
    ),
    "identity renew": Page(
        about="The new key is tried before it is switched to; one that does not work is never used.",
        examples={
            "fedsite identity renew": "",
            "fedsite identity renew --key-storage file": "Keeps the new key's passphrase in a file from now on.",
        },
        writes="identity/ in the state folder; the audit.",
        network="The federation's server.",
        exits=ends(*ASKS),
        see=("identity show", "enroll"),
    ),
    "identity retire": Page(
        about="The server is not told: the coordinator revokes the site. What the site has promised stays on record.",
        examples={"fedsite identity retire --confirm st-mary": "Without a question."},
        writes="Removes identity/'s keys and certificates from the state folder; the audit.",
        exits=ends(*OPENS),
        see=("schedule remove", "server site revoke"),
    ),
    "completion": Page(
        about=(
            "Completes commands, options, what an option may be, files, and the names of tasks, configuration keys,"
            " layouts, prepared patients, a federation's sites and rounds. It looks at files alone: nothing is asked"
            " of the network, and where something is wrong it offers nothing."
        ),
        examples={
            "fedsite completion bash > ~/.local/share/bash-completion/completions/fedsite": "bash (package"
            " bash-completion); or: source <(fedsite completion bash) in ~/.bashrc.",
            "fedsite completion zsh > ~/.zfunc/_fedsite": "zsh, with fpath+=~/.zfunc before compinit in ~/.zshrc.",
            "fedsite completion fish > ~/.config/fish/completions/fedsite.fish": "fish.",
        },
        exits=ends(),
    ),
}

DATA = {
    "tasks list": Page(
        examples={"fedsite tasks list": ""},
        reads="site.yaml, where there is one, and the task files that it names (paths.tasks).",
        exits=ends(78),
        see=("tasks show",),
    ),
    "tasks show": Page(
        about="Of a site's own task that is named by its file this also says whether the file is right.",
        examples={"fedsite tasks show stroke-dwi": "", "fedsite tasks show own-task.yaml": "Checks a file."},
        reads="site.yaml, where there is one, and the task files that it names (paths.tasks).",
        exits=ends(78),
        see=("prepare-data",),
    ),
    "inspect": Page(
        about=(
            "Needs neither a task nor a configuration: without one the ids are of this run only. SOURCE is only"
            " read.\n\n"
            "Volumes are named by pseudonym; fedsite data locate finds their files again."
        ),
        examples={
            "fedsite inspect /data/export": "",
            "fedsite inspect export.zip --volumes /tmp/volumes": "Also writes each usable volume as NIfTI.",
            "fedsite inspect /data/export --resample tilt,uneven": "As it would be with tilted series resampled.",
        },
        reads="SOURCE; site.yaml, where there is one.",
        writes="index/ in the state folder (sealed headers, for the next scan); the folder of --volumes.",
        exits=ends(65, 66, *OPENS),
        see=("prepare-data", "data locate"),
    ),
    "prepare-data": Page(
        about=(
            "Studies that did not change are not done again; an interrupted run goes on where it was. SOURCE is"
            " only read. Nothing is sent. Look at the pictures in the report before going on."
        ),
        examples={
            "fedsite prepare-data /data/export --task stroke-dwi --labels /data/masks": "",
            "fedsite prepare-data /data/export --task stroke-dwi --check-only": "Only the report.",
            "fedsite prepare-data /data/isles22 --task stroke-dwi --layout bids": "A public data set.",
        },
        reads="SOURCE; the masks of --labels; site.yaml.",
        writes="Cases, manifest.json and report.html in paths.data (--out); index/ in the state folder.",
        exits=ends(65, 66, 69, *OPENS) | {75: "Another preparation is at work there, or a worker was ended."},
        see=("inspect", "tasks show", "data list"),
    ),
    "data list": Page(
        examples={"fedsite data list": "", "fedsite data list --data /data/other": "Of another prepared folder."},
        reads="manifest.json in paths.data (--data).",
        exits=ends(65, 66, *OPENS),
        see=("data locate", "data exclude"),
    ),
    "data locate": Page(
        about="Paths may name patients: they are not written to a file, a pipe or JSON.",
        examples={"fedsite data locate e-ph7er6yvk32xssji /data/export": "The id as data list or a report has it."},
        reads="SOURCE; the key of the pseudonyms in the state folder.",
        exits=ends(65, 66, *OPENS),
        see=("data list",),
    ),
    "data exclude": Page(
        about=(
            "Harmless to repeat. What left this site before stays in the models that were made of it, and in the"
            " ledger."
        ),
        examples={
            "fedsite data exclude p-rxlgabf5trbgehol": "Asks first.",
            "fedsite data exclude p-rxlgabf5trbgehol --yes": "Where there is no terminal.",
        },
        reads="manifest.json in paths.data (--data).",
        writes="The audit, for ever; removes the patient's cases, what was measured on them, and models made of them.",
        exits=ends(65, 66, *OPENS),
        see=("data list", "audit show"),
    ),
}

ROUNDS = {
    "check": Page(
        about=(
            "All checks are run before it fails; the exit code is that of the first that does. It trains nothing,"
            " and changes nothing but an older fedsite's records, which it brings up to date."
        ),
        examples={
            "fedsite check": "",
            "fedsite check --as-cron": "Whether the key opens where nobody is logged in.",
            "fedsite check --notify": "Also sends a test to everybody whom notifications names.",
        },
        reads="site.yaml, the state folder, the prepared data, what is scheduled.",
        network="The server, by the whole way that an update takes, with a measured upload.",
        exits=ends(65, 66, 81, 80, *ASKS),
        see=("status", "train-round"),
    ),
    "train-round": Page(
        about=(
            "One participation, which ends by itself and asks nothing: run it from systemd, cron or Slurm. What was"
            " cut off, at any point, is continued by the same command. Without a round that is due it does nothing.\n\n"
            "Told to stop (SIGTERM, Ctrl-C, the end of policy.hours) it keeps the step that it is at and ends"
            " within ten seconds. With --quiet nothing is printed but what wants a person."
        ),
        examples={
            "fedsite train-round --dry-run": "Shows what would leave, and what it would cost; sends nothing.",
            "fedsite train-round": "",
            "fedsite train-round --quiet --wait 10m": "As a schedule runs it; waits for another run to end.",
        },
        reads="site.yaml, the prepared data, the state folder.",
        writes="The ledger, the audit, the model, checkpoints, egress/, pages and logs in the state folder.",
        network="The federation's server; whoever notifications names.",
        exits=ends(65, 66, 80, 81, *ASKS)
        | {
            1: "A bug in fedsite, or a training process that is broken: see --verbose.",
            75: "Not now, no failure: another run, not the hour, approval awaited, a GPU or worker lost. Run it again.",
            78: "The configuration is wrong, no patch fits into the GPU, or a hook of the site's own failed.",
        },
        see=("check", "schedule install", "approve", "status"),
    ),
    "approve": Page(
        about=(
            "Without --by it shows the plan; on a terminal it asks who agrees. One approval holds for all plans"
            " that ask for the same, until --take-back."
        ),
        examples={
            "fedsite approve stroke-2026": "Shows what the plan asks for.",
            'fedsite approve stroke-2026 --by "A. Person"': "Agrees.",
            "fedsite approve stroke-2026 --take-back": "Agrees no more, from the next run on.",
        },
        reads="The plans that the server has offered, in the state folder.",
        writes="The audit.",
        exits=ends(*OPENS),
        see=("train-round", "audit show"),
    ),
    "schedule install": Page(
        about=(
            "A window says when runs start; how long they may work is for policy.hours alone. Each start is late by"
            " chance, by up to half an hour. The same call again changes nothing, another one replaces it."
        ),
        examples={
            "fedsite schedule install --every 6h --window 20:00-06:00 --weekends": "",
            "fedsite schedule install --with cron --user": "Lines in this user's crontab.",
        },
        reads="site.yaml; CUDA_VISIBLE_DEVICES and the like, which are written along.",
        writes="/etc/systemd/system or ~/.config/systemd/user; else /etc/cron.d or the user's crontab.",
        exits=ends(73, 78),
        see=("schedule show", "check"),
    ),
    "schedule show": Page(
        examples={"fedsite schedule show": ""},
        reads="The four places where a schedule may lie.",
        exits=ends(78),
        see=("schedule install", "status"),
    ),
    "schedule remove": Page(
        examples={"fedsite schedule remove": ""},
        writes="Removes the units or the marked lines; every other line of a crontab stays.",
        exits=ends(73, 78),
        see=("schedule install", "identity retire"),
    ),
    "status": Page(
        about="Asks nobody: it shows what this machine knows.",
        examples={"fedsite status": "", "fedsite status --json": "For a monitoring system."},
        reads="site.yaml, the state folder, manifest.json, what is scheduled.",
        exits=ends(*OPENS),
        see=("check", "report", "privacy show"),
    ),
    "report": Page(
        about="The page shows Dice: it is for this site's people alone.",
        examples={"fedsite report": "", "fedsite report --output /srv/intranet/fedsite.html": ""},
        reads="site.yaml, the state folder.",
        writes="reports/participation.html in the state folder, or the file of --output.",
        exits=ends(*OPENS),
        see=("status", "audit export"),
    ),
}

MODELS = {
    "evaluate": Page(
        about="Held-out patients are chosen by a keyed hash when data are prepared, and never trained on.",
        examples={
            "fedsite evaluate": "",
            "fedsite evaluate --model mine.safetensors --plan plan.yaml": "A model of your own.",
        },
        reads="The prepared data; models/ in the state folder.",
        writes="reports/evaluation.html in the state folder, or the file of --report.",
        network="The server, where it has a newer global model.",
        exits=ends(65, 66, *ASKS),
        see=("report", "personalize", "predict"),
    ),
    "predict": Page(
        about=(
            "STUDY goes through the same checks as in prepare-data and is only read. Each result is named by"
            " pseudonym: a DICOM segmentation (.dcm) that opens beside its series, or NIfTI, and a picture (.png).\n\n"
            "A DICOM segmentation necessarily holds the patient's name and ids, as the series does that it belongs"
            " to: keep it where the series is."
        ),
        examples={
            "fedsite predict /data/new-study --out /data/results": "",
            "fedsite predict /data/export --all --out /data/results --nifti": "Every study, as NIfTI.",
        },
        reads="STUDY; models/ or personal/ in the state folder.",
        writes="The folder of --out.",
        network="The server, where it has a newer global model.",
        exits=ends(65, 66, *ASKS),
        see=("inspect", "evaluate", "personalize"),
    ),
    "personalize": Page(
        about=(
            "It is compared with the global model on the held-out patients, and kept if it does better there. Then"
            " it is what fedsite predict --personalized uses; withdrawing a patient removes it."
        ),
        examples={"fedsite personalize": "", "fedsite personalize --steps 500 --learning-rate 0.001": ""},
        reads="The prepared data; models/ in the state folder; personalization in site.yaml.",
        writes="personal/ in the state folder.",
        network="The server, where it has a newer global model.",
        exits=ends(65, 66, *ASKS),
        see=("predict", "evaluate"),
    ),
}

PAGES = SET_UP | DATA | ROUNDS | MODELS
