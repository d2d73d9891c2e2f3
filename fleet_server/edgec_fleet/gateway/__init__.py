"""Speaks MQTT for the server: takes in what devices say, tells them what is desired, serves blocks.

`ingest` writes messages into the database, `sources` says where a device's bytes come from,
`publisher` signs and sends `desired`, `blocks` answers requests, `patches` makes deltas, and
`link` is the connection to the broker.
"""
