"""Tells a webhook or a mail address what failed for which tenant, once for each cause."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kb_pipeline.config.schema import AlertsConfig
from kb_pipeline.store.alerts import note_alert, take_back_alert

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed."""

    subject: str
    """The tenant, or the job of a run without one."""
    job: str
    run_id: str
    step: str
    """The asset that failed; empty when it was none."""
    message: str

    @property
    def cause(self) -> str:
        """The same for failures of the same kind: numbers, ids and quoted names do not count."""
        plain = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d[\d,._]*|'[^']*'|\"[^\"]*\"", "#", self.message)
        return hashlib.sha256(f"{self.job}\0{self.step}\0{plain}".encode()).hexdigest()[:32]

    @property
    def text(self) -> str:
        """What a person reads."""
        where = f" in {self.step}" if self.step else ""
        return f"kb_pipeline: {self.job} failed for {self.subject}{where}: {self.message} (run {self.run_id})"


def tell(db: Database, config: AlertsConfig, failure: Failure, *, well_since: datetime | None = None) -> str:
    """Sends the failure where the configuration says, unless its cause was told and nothing went well since; what was
    done, in words. Raises `OSError` when it could not be sent: the next failure of the cause tries again."""
    if not (config.webhook or config.mail):
        return "nobody is to be told: set [alerts] webhook or mail"
    with db.connect("owner") as conn:
        first, times = note_alert(conn, failure.subject, failure.cause, well_since=well_since)
    if not first:
        return f"told before, seen {times} times"
    try:
        if config.webhook:
            post(config.webhook, {"text": failure.text, **asdict(failure), "cause": failure.cause})
        if config.mail:
            mail(config, failure)
    except OSError:
        with db.connect("owner") as conn:
            take_back_alert(conn, failure.subject, failure.cause)
        raise
    return f"told {' and '.join(filter(None, ('the webhook' if config.webhook else '', config.mail)))}"


def post(url: str, message: dict[str, object]) -> None:
    """One POST of JSON. Raises `OSError`."""
    from urllib.request import Request, urlopen

    request = Request(url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST")
    with urlopen(request, timeout=TIMEOUT_S):
        pass


def mail(config: AlertsConfig, failure: Failure) -> None:
    """One mail. Raises `OSError` (which `smtplib.SMTPException` is)."""
    import smtplib
    from contextlib import suppress
    from email.message import EmailMessage

    message = EmailMessage()
    message["Subject"] = f"kb_pipeline: {failure.job} failed for {failure.subject}"
    message["From"], message["To"] = config.mail_from, config.mail or ""
    message.set_content(failure.text)
    host, _, port = config.smtp.partition(":")
    server = smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_S)
    try:
        if user := os.environ.get("SMTP_USER"):
            server.starttls()
            server.login(user, os.environ.get("SMTP_PASSWORD", ""))
        server.send_message(message)
        with suppress(OSError):  # it is taken already, however the server says good-bye
            server.quit()
    finally:
        server.close()
