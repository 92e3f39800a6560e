"""What `serve` does besides calls: it goes on with bulk operations, sends webhooks, and fires schedules."""
