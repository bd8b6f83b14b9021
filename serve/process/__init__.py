"""The processes of the server: a supervisor, a fork server, and the workers.

The supervisor (`supervisor`) owns the port and the keys and does not import torch. The fork server
(`fork_server`) has imported everything once and forks workers, which share that memory. A worker
(`worker`, `server`) loads the models and answers requests. Supervisor and workers exchange messages
over private channels (`channel`, `messages`).
"""
