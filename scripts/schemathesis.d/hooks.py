"""Gives generated requests ids of tasks that are there, and notes which answers each endpoint gave.

Generated ids belong to nobody, and generated times are none: by itself schemathesis would see a 404 or a 400 nearly
everywhere, and would not see the 404 of a request that is wrong in another way too. So one request in four is right but for
its id, and the others get the ids of tasks in all states. What was answered is written to the file that STATUSES names;
statuses.py holds it against the document.
"""

import json
import os
import uuid
from collections import Counter, deque

import schemathesis

THING = os.environ["THING"]
DEVICE = os.environ["DEVICE"]
SUCCEEDED = os.environ["SUCCEEDED"]
# Stays unfinished: it is paused, and only requests that leave it so are sent to it.
PAUSED = os.environ["PAUSED"]
INSTANCE = os.environ["INSTANCE"]
KEY = "the same key"
# Bodies that are right.
BODIES = {"setTaskRate": {"rate": 5}, "retryTask": {"devices": "all"}}

# Tasks that these requests have created, the latest last.
created = deque(maxlen=50)
calls = Counter()
answers = Counter()


def operation(case):
    return case.operation.definition.raw["operationId"]


def is_uuid(text):
    try:
        return str(uuid.UUID(text)) == text
    except (TypeError, ValueError, AttributeError):
        return False


def right_body(case, name):
    # Unless the type of the body is what is wrong.
    if "json" in case.headers.get("Content-Type", "application/json"):
        case.body = dict(BODIES[name])
        case.media_type = "application/json"


@schemathesis.hook
def before_call(context, case, kwargs):
    name = operation(case)
    turn = calls[name]
    calls[name] += 1
    # What is meant to be no id stays as it is.
    if is_uuid((case.path_parameters or {}).get("taskId")):
        if turn % 4:
            known = [SUCCEEDED, *list(created)[-1:]]
            if name not in ("cancelTask", "resumeTask", "setTaskRate"):
                known.append(PAUSED)
            case.path_parameters["taskId"] = known[turn % len(known)]
            if name == "retryTask" and turn % 4 == 1:
                # Of a task that is finished by now, or the same as before.
                case.path_parameters["taskId"] = created[0] if created and turn % 8 == 1 else SUCCEEDED
                right_body(case, name)
        elif name in BODIES or not case.operation.body:
            case.path_parameters["taskId"] = str(uuid.uuid4())
            case.query = {}
            case.headers.pop("Last-Event-ID", None)
            if name in BODIES:
                right_body(case, name)
    if turn % 2 and is_uuid((case.path_parameters or {}).get("instanceId")):
        case.path_parameters["instanceId"] = INSTANCE
        case.query = {}
    if name == "submitTask" and isinstance(case.body, dict) and turn % 4:
        # Of a device that does not exist the task fails, and can be tried again.
        device = DEVICE if turn % 2 else str(uuid.uuid4())
        case.body.update({"src": "iota", "thingId": THING, "devices": [device]})
        case.body.update({"from": "2019-01-11T21:03:00.000+0800", "to": "2019-01-15T14:30:00.000+0800"})
        case.body.update({"topic": "savoir_data", "requestId": None, "reason": None})
        case.headers.pop("Idempotency-Key", None)
        if turn % 4 == 3:
            # Three times the same request, then another one with the same key.
            case.headers["Idempotency-Key"] = KEY
            case.body["reason"] = "another" if turn % 16 == 15 else "the same"


@schemathesis.hook
def after_call(context, case, response):
    name = operation(case)
    answers[f"{name} {response.status_code}"] += 1
    if response.status_code == 201:
        created.append(json.loads(response.content)["taskId"])
    with open(os.environ["STATUSES"], "w") as file:
        json.dump(answers, file)
