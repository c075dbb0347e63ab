"""Sends and receives events with the CloudEvents SDK. The one argument is the address of a runtime with the queue `events`."""

import json
import sys
import urllib.request
from datetime import datetime, timezone

from cloudevents.core.bindings.http import from_http_event, to_binary_event, to_structured_event
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

BASE = sys.argv[1]


def post(path, headers, body):
    request = urllib.request.Request(BASE + path, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request) as response:
        return response.status, dict(response.headers), response.read()


def event(number, data, content_type):
    attributes = {
        "id": str(number),
        "source": "/python/ünïcode",
        "type": "example.ordered",
        "specversion": "1.0",
        "subject": "naïve subject",
        "datacontenttype": content_type,
        "region": "eu",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    }
    return CloudEvent(attributes=attributes, data=data)


sent = [event(1, {"total": 9}, "application/json"), event(2, "a text", "text/plain"), event(3, b"\xff\x00", "image/png")]
for one in sent:
    # The same event in both modes is one message.
    message = to_binary_event(one)
    status, _, _ = post("/queues/events/messages", message.headers, message.body)
    assert status == 202, status
    message = to_structured_event(one)
    status, _, _ = post("/queues/events/messages", message.headers, message.body)
    assert status == 200, status



def same(one, other):
    for name in ("id", "source", "type", "subject", "datacontenttype", "region", "time"):
        assert one.get_attributes()[name] == other.get_attributes()[name], (name, other)
    assert one.get_data() == other.get_data(), (one.get_data(), other.get_data())


def received(accept):
    """Claims one event, and hands out its lease and the event, read by the SDK."""
    status, headers, body = post("/queues/events/claim/event", {"Accept": accept}, b"")
    assert status == 200, status
    return headers["linecook-lease"], from_http_event(HTTPMessage(headers, body))


accept = {"Accept": "application/cloudevents-batch+json", "Content-Type": "application/json"}
status, headers, body = post("/queues/events/claim", accept, b'{"max":10}')
assert headers["content-type"] == "application/cloudevents-batch+json", headers
batch = [JSONFormat().read(None, json.dumps(one)) for one in json.loads(body)]
assert len(batch) == len(sent), body
for one, other in zip(sent, batch):
    same(one, other)
    # The next mode gets it again.
    post("/deliveries/%s/retry" % other.get_attributes()["linecooklease"], {}, b"")
for accept, last in (("application/cloudevents+json", False), ("*/*", True)):
    leases = []
    for one in sent:
        lease, other = received(accept)
        same(one, other)
        leases.append(lease)
    for lease in leases:
        post("/deliveries/%s/%s" % (lease, "ack" if last else "retry"), {}, b"")
print("ok")
