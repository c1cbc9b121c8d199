"""A program of somebody else: reads OUT with the plain client library, keeps each event once, and prints it.

`python -m tests.support.out_reader URL TAPE`: a line of JSON for each event, by the rule of docs/formats/out.md.
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.js.errors import NotFoundError

FETCHED = 500


async def main(url: str, tape: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    while True:
        try:
            messages = await stream.pull_subscribe(f"out.v1.{tape}.>", stream="OUT")
            break
        except NotFoundError:
            await asyncio.sleep(0.1)  # No host has made it yet.
    last = -1
    while True:
        try:
            batch = await messages.fetch(FETCHED, timeout=1)
        except TimeoutError:  # The library's own, or the event loop's where an answer comes late.
            continue
        for message in batch:
            event = json.loads(message.data)
            if event["position"]["previous"] == last:
                last = event["position"]["events"]
                print(json.dumps({"subject": message.subject, **event}), flush=True)
            await message.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
