"""A relay on one host: what arrives at a port goes to another, each byte so many seconds later.

    delay.py LISTEN_PORT SERVER_IP SERVER_PORT SECONDS
"""

import asyncio
import contextlib
import sys

CHUNK = 1 << 16


async def later(reader, writer, seconds):
    """One direction. Chunks wait side by side: they are late, not few."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    async def deliver():
        while (item := await queue.get()) is not None:
            due, data = item
            await asyncio.sleep(max(0, due - loop.time()))
            writer.write(data)
            await writer.drain()
        writer.close()

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            queue.put_nowait((loop.time() + seconds, data))
    queue.put_nowait(None)
    with contextlib.suppress(OSError):
        await delivery


async def main(listen, ip, port, seconds):
    async def accept(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(ip, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(later(reader, far_writer, seconds), later(far_reader, writer, seconds))

    async with await asyncio.start_server(accept, "0.0.0.0", listen) as relay:
        await relay.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
