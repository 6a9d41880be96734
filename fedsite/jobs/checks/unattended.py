"""What `fedsite check` says of what nobody watches: hooks, notifications, and what has gone wrong run after run."""

from fedsite.jobs.checks.findings import Check
from fedsite.jobs.site import Site
from fedsite.jobs.unattended import hooks, mail, notify, streaks
from fedsite.jobs.unattended.notices import Notice
from fedsite.wire import webhooks

ONLY_WARNS = "Rounds go on without it: mend notifications in site.yaml."


def own_programs(site: Site) -> Check:
    """Whether the hooks may be trusted with a round. They are not run."""
    named = [name for name in (hooks.BEFORE, hooks.AFTER) if hooks.require_runnable(site.config.hooks, name)]
    if not named:
        return Check("hooks", "ok", "No program of this site's own runs around a round.")
    return Check("hooks", "ok", f"{' and '.join(named)} can be run; {site.config.hooks.seconds:g} s for each.")


def notifications(site: Site) -> Check:
    """Who would be told, and by which way. Nothing is sent."""
    settings = site.config.notifications
    told, lacking = [], ""
    for name, address in (("ping", settings.ping), ("webhook", settings.webhook)):
        if address:
            where = address.get_secret_value()
            proxy = notify.way_to(where, site.config.network)
            told.append(f"{name} to {webhooks.host_of(where)}{f' by {proxy.url}' if proxy else ''}")
    if settings.mail_to:
        program = mail.program_found()
        lacking = "" if program or mail.server_listens() else "This machine has no sendmail program and no mail server."
        told.append(f"mail by {program or 'the mail server of this machine'}")
    if lacking:
        return Check("notifications", "warning", lacking, ONLY_WARNS)
    if not told:
        return Check("notifications", "ok", "Nobody is told how runs go; what has gone wrong stands in fedsite status.")
    return Check("notifications", "ok", f"{'; '.join(told)} ({', '.join(settings.events)}). To try: --notify.")


def try_notifications(site: Site) -> Check:
    """Sends a test to everybody who would be told."""
    pinned = site.pinned
    notice = Notice("test", pinned.site, pinned.federation)
    made = notify.tell(site.config.notifications, site.config.network, notice, aloud=True)
    problems = [f"{one.way}: {one.problem}" for one in made if one.problem]
    notify.write_down(site.state, notice, made)
    if problems:
        return Check("notifications", "warning", " ".join(problems), ONLY_WARNS)
    if not made:
        return Check(
            "notifications", "warning", "Nobody is told how runs go.", "See: fedsite config explain notifications"
        )
    return Check("notifications", "ok", f"A test was taken by: {', '.join(one.way for one in made)}.")


def failures(site: Site) -> Check:
    """What has gone wrong run after run: since when, how often."""
    streak = streaks.load(site.state.folder)
    if streak is None:
        return Check("failures", "ok", "Nothing went wrong in the last run.")
    return Check("failures", "warning", f"{streak.message} {streak.how_often}", streak.mend)
