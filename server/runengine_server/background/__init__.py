"""What `serve` does besides calls: it sends webhooks, and fires schedules."""
