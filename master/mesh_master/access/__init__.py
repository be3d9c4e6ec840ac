"""Who is at the door: passwords, bearer tokens, and the commands that give and take access."""
