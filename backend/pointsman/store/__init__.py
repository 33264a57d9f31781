"""Where shared state lives: in this process's memory, or in Redis for all workers and routers together."""
