"""What `make bench` runs: cartows measured side by side with a C floor, a plain flask-sock loop and Flask-SocketIO."""
