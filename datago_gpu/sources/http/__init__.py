"""Downloads over HTTP, with retries, deadlines and limits."""
