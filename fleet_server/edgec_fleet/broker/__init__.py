"""The broker that the server brings along: mTLS, own topics only, revoked devices out.

`policy` reads from the database who may read what; `mosquitto` and `amqtt` are the two brokers
that hold to it. A broker of one's own is told by a URL, and keeps its rules itself.
"""
