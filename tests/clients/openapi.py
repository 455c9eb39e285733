"""openapi.py DESCRIPTION SAID: checks requests and answers (a list in JSON) against an OpenAPI description.

A request that was done must be as the description has it; one that was refused for what it is must not be (those
that were refused for their time, or for what the VM hasn't, may). Each answer must be as described, for the status
that it has. Each operation of the description must have been asked for at least once.
"""

import json
import re
import sys

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

# Refused although the request is as it should be.
NOT_FOR_WHAT_IT_IS = re.compile(r"not supported (before|after)|there is no |no such button|\d+ MiB|CtrlAltDel|Power")


def main(description, said):
    with open(description) as file:
        api = yaml.safe_load(file)
    validate(api)
    asked = set()
    wrong = []
    for one in json.load(open(said)):
        name = f"{one['method']} {one['path']} {json.dumps(one['body'])}: {one['status']} {json.dumps(one['answer'])[:300]}"
        path, operation = find(api, one["method"].lower(), one["path"])
        asked.add((path, one["method"].lower()))
        body = resolve(api, operation.get("requestBody", {}))
        if body:
            schema = body["content"]["application/json"]["schema"]
            fits = errors(api, schema, one["body"])
            fault = one["status"] == 400 and not NOT_FOR_WHAT_IT_IS.search(one["answer"]["fault_message"])
            if fits and one["status"] < 300:
                wrong.append(f"{name}: done, but not as described: {fits}")
            if not fits and fault:
                wrong.append(f"{name}: as described, but refused")
        elif one["body"] is not None:
            wrong.append(f"{name}: a body where none is described")
        answer = operation["responses"].get(str(one["status"]))
        if answer is None:
            wrong.append(f"{name}: no such status is described")
            continue
        content = resolve(api, answer).get("content")
        if content is None:
            if one["answer"] is not None:
                wrong.append(f"{name}: more than nothing")
            continue
        (form,) = content.values()
        unfit = errors(api, form["schema"], one["answer"])
        if unfit:
            wrong.append(f"{name}: the answer isn't as described: {unfit}")
    for path, operations in api["paths"].items():
        for method in operations.keys() - {"parameters"}:
            if (path, method) not in asked:
                wrong.append(f"{method.upper()} {path}: never asked for")
    print("\n".join(wrong))
    return 1 if wrong else 0


def find(api, method, path):
    for template, operations in api["paths"].items():
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", template)
        if re.fullmatch(pattern, path) and method in operations:
            return template, operations[method]
    raise SystemExit(f"{method} {path} isn't described")


def resolve(api, part):
    while "$ref" in part:
        target = api
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part


def errors(api, schema, value):
    whole = {"components": api["components"], **schema}
    return "; ".join(error.message for error in Draft202012Validator(whole).iter_errors(value))


sys.exit(main(*sys.argv[1:]))
