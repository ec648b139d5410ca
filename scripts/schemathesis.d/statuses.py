"""Fails if an endpoint has a documented answer that no request got: statuses.py DOCUMENT STATUSES

What nobody asks for cannot be found wrong: a 404 that is not documented shows only if an unknown id was asked for.
"""

import json
import sys

# Of every endpoint, and how it is answered elsewhere: wrong tokens are answered later and later, roles need further tokens,
# a large body is a megabyte, and the service is neither stopping nor overloaded. tests/it has all of them.
ELSEWHERE = {"401", "403", "413", "429", "503"}
# Of one endpoint: it has no parameter that could be wrong; a stream has no more than this only after the end of its task.
UNREACHED = {("showService", "400"), ("listEvents", "204")}

with open(sys.argv[1]) as file:
    document = json.load(file)
with open(sys.argv[2]) as file:
    answers = json.load(file)

missing = []
for path, methods in document["paths"].items():
    names = [operation["operationId"] for operation in methods.values()]
    # Another method belongs to the path, so the answer is noted for one of its endpoints.
    if "405" not in {key.split()[1] for key in answers if key.split()[0] in names}:
        missing.append(f"{path} 405")
    for operation in methods.values():
        name = operation["operationId"]
        counts = {status: answers.get(f"{name} {status}", 0) for status in operation["responses"] if status not in {*ELSEWHERE, "405"}}
        print(f"{name:16} " + "  ".join(f"{status}: {count}" for status, count in sorted(counts.items())))
        missing += [f"{name} {status}" for status, count in counts.items() if not count and (name, status) not in UNREACHED]
if missing:
    sys.exit("no request got these answers: " + ", ".join(missing))
