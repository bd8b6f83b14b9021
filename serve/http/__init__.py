"""The ASGI application: routes, errors as answers, who may ask and how often."""
