"""The REST protocol of the MLflow 3.17 client, over the same records as everything else.

``app.Mlflow`` is a bare ASGI application; each module beside it owns the endpoints of one noun and lists them in its ``ROUTES``. A handler
reads its message leniently, as the protocol's own server does (``messages``), calls verbs of the domain, and renders what came back.
"""
