"""Local web app: upload a video, watch the progress, download the results (docs/app.md).

`options` parses requests, `worker` runs one job in a process, `jobs` queues and supervises them,
`server` is the HTTP API (`description` its OpenAPI document, `guard` its access control), and
`serve` runs it on an address. The page itself is in `assets/app`.
"""
