"""What the test servers want of gunicorn that has no flag in all of its versions (unknown settings are passed over)."""

# Two servers of one user would meet on the socket's default path.
control_socket_disable = True
