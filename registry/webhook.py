"""Messages to a webhook like those of Slack and Teams; its URL is in VITRINE_WEBHOOK."""

import os
import sys

import requests

TIMEOUT = 30  # seconds
URL_VARIABLE = "VITRINE_WEBHOOK"


def has_webhook() -> bool:
    """Whether there is a webhook."""
    return bool(os.environ.get(URL_VARIABLE))


def post_message(text: str, sender: str) -> None:
    """Post a text; does nothing where there is no webhook.

    A failed post is logged, without the URL, and raises nothing.

    Args:
        text: The message.
        sender: Command or step, for the log.
    """
    webhook = os.environ.get(URL_VARIABLE)
    if not webhook:
        return
    try:
        answer = requests.post(webhook, json={"text": text}, timeout=TIMEOUT)
        if not answer.ok:
            print(
                f"{sender}: the webhook answered {answer.status_code}; no message was sent", file=sys.stderr
            )
    except requests.RequestException as failure:  # its message would hold the URL
        print(f"{sender}: the webhook cannot be reached ({type(failure).__name__})", file=sys.stderr)
