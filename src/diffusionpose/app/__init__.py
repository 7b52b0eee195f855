"""A page of one's own: drop a video, watch the progress, take the results. docs/app.md describes it for users.

options -> orders of work (`options`) -> a process a job (`worker`) -> the queue that watches them (`jobs`) -> HTTP
(`server`, described in `description`, guarded in `guard`) -> the address (`serve`). The page itself is in `assets/app`.
"""
