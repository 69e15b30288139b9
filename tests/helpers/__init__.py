"""Models, tasks, servers and files that several tests share."""
