"""A process that only publishes: ``python -m tests.support.redis.publishing URL``.

Each line of its input requests the events ``numbers`` of publisher ``by``; each line of its output has their results.
"""

from __future__ import annotations

import json
import os
import sys
import time

from cartows.options import Options
from cartows.publisher import Publisher


def main() -> None:
    with Publisher(sys.argv[1], options=Options(publish_timeout=0.5)) as publisher:
        for line in sys.stdin:
            wanted = json.loads(line)
            results = []
            for number in wanted["numbers"]:
                began = time.monotonic()
                data = {"by": wanted["by"], "n": number, "pid": os.getpid()}
                result = publisher.broadcast("numbered", data, filters=wanted.get("filters"))
                took = time.monotonic() - began
                results.append({"n": number, "status": result.status, "id": result.id, "reason": result.reason, "took": took})
            print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
