"""Pixels in, deliverables out. Pure: no broker, database, clock, randomness or asyncio.

    crop.crop(data, parameters)  -> Rendered         the composition, as data and as a picture
    variants.variants(data)      -> list[Rendered]   every form that a browser is given

Both are synchronous and may be handed hostile bytes, so the caller runs them in a child process that it
can kill. Fork that child only from a process that has rendered nothing yet: libvips starts its threads
with the first picture, and threads do not survive a fork. Raises, besides the errors of images.py,
MemoryError at the process' memory limit.
"""
