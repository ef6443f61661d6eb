"""Processes that decode with Pillow, so that nothing of a single sample runs in the trainer's process.

    trainer's process                       shared memory                     decode processes, children of the feeder
    ProcessDecoder.submit --rows-->         table of rows                     worker.py: reads a task, decodes its rows
                          --tasks (pipe)--------------------------------->    from the arena, writes pixels,
    ProcessDecoder.collect <--one message a batch (socket)---------------     and the last task of a batch reports
    numpy array over the pixels <------     pixels

The feeder forks a fork server before it starts a thread or an event loop (fork_server.py). The fork server imports
numpy and Pillow, forks the decode processes, which share these pages, and waits for them. memory_plan.py says where
things lie in the shared memory; decode_pool.py holds the trainer's ends.
"""
