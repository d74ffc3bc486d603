"""`emollama serve --ray`: the service's models as deployments of Ray Serve, on one machine or many.

The process that a client talks to is the door (`server.ray.door`): the same application with the same routes, whose
models live elsewhere. Encoders (`server.ray.deployments.Encoders`) decode a clip and read face and voice; decoders
(`server.ray.deployments.Decoder`) hold the LLaMA and judge and speak. What goes from the one to the other is small
(`server.ray.senses`), and both are pure functions of what they are given, so a call whose replica died is made again
(`server.ray.calls`). Clips of an hour stay at the door, which decodes their windows (`server.ray.decoding`) and has one
after the other read (`server.ray.windows`). Only the package ``ray`` is imported late: nothing here needs it to be
imported.
"""
