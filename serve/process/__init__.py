"""The server as processes: one that supervises, one that starts workers, and the workers.

The supervisor (`supervisor`) has the port, the keys and no torch. The nursery (`nursery`) has
imported everything once and forks workers, which share that memory. A worker (`worker`, `server`)
has the models and answers. They talk over private channels (`channel`, `messages`).
"""
