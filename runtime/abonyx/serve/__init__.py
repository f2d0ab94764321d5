"""Scores over HTTP: one session, one scoring thread, many clients. Only this package needs the extra `serve`.

A request is let in (gate), read and checked (requests), waits with others for the one thread that scores (scheduler),
and is answered (app, answers).
"""
