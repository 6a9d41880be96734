"""Tells others how a run went: a service that misses signs of life, a webhook, mail. A failure here only warns.

Where to is said by site.yaml alone. Every attempt has an end, and is written down (`Delivery`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedsite.errors import FedsiteError
from fedsite.jobs.network import proxy_for
from fedsite.jobs.unattended import mail
from fedsite.jobs.unattended.notices import Notice
from fedsite.site.config import NetworkSettings
from fedsite.site.state import State
from fedsite.site.unattended import NotificationSettings
from fedsite.site.waiting import within
from fedsite.wire import webhooks
from fedsite.wire.route import Proxy

SECONDS = 10.0
"""What each way may take, name servers included."""


@dataclass(frozen=True)
class Delivery:
    """What became of a notice on one way: `ping`, `webhook` or `mail`; `problem` is empty where it was taken."""

    way: str
    problem: str = ""


def tell(settings: NotificationSettings, network: NetworkSettings, notice: Notice, *, aloud: bool) -> list[Delivery]:
    """Sends a notice wherever the settings say, one way after the other; `aloud` means webhook and mail, too."""
    return [Delivery(way, _tried(act)) for way, act in _ways(settings, network, notice, aloud)]


def write_down(state: State, notice: Notice, made: Sequence[Delivery]) -> None:
    """What has left, and by which way, for the audit; to whom, site.yaml says."""
    for one in made:
        state.audit("notified", way=one.way, about=notice.event, problem=one.problem)


def way_to(address: str, network: NetworkSettings) -> Proxy | None:
    """The proxy for an address. Plain HTTP is to this machine alone. Raises ConfigurationError."""
    return None if address.startswith("http://") else proxy_for(network, address)


def _ways(
    settings: NotificationSettings, network: NetworkSettings, notice: Notice, aloud: bool
) -> list[tuple[str, Callable[[], None]]]:
    ways: list[tuple[str, Callable[[], None]]] = []
    if settings.ping and notice.event != "mended":
        address = settings.ping.get_secret_value()
        name = {"start": "start", "failure": "fail"}.get(notice.event)
        place = webhooks.below(address, name) if name else address
        body = f"{notice.headline}\n{notice.text}".encode()
        ways.append(("ping", lambda: _post(place, body, "text/plain; charset=utf-8", network)))
    if settings.webhook and aloud:
        hook = settings.webhook.get_secret_value()
        ways.append(("webhook", lambda: _post(hook, notice.as_json, "application/json", network)))
    if settings.mail_to and aloud:
        to, sender = settings.mail_to, settings.mail_from
        ways.append(("mail", lambda: mail.send(to, sender, notice.headline, notice.text, SECONDS)))
    return ways


def _post(address: str, body: bytes, content_type: str, network: NetworkSettings) -> None:
    webhooks.post(address, body, content_type, way_to(address, network))


def _tried(act: Callable[[], None]) -> str:
    """What was in the way of an attempt, in words that hold no address; "" where it went well."""
    try:
        within(SECONDS + 1, act)
    except FedsiteError as error:
        return error.message
    except TimeoutError:
        return f"No answer within {SECONDS:.0f} seconds."
    except Exception as error:  # noqa: BLE001 - a notice is never worth a round
        return f"It failed: {type(error).__name__}."
    return ""
