"""Settings of gunicorn for the test servers that not every version has a flag for; it ignores unknown ones."""

# Two servers of one user would meet on the socket's default path.
control_socket_disable = True
