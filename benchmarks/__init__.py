"""What `make bench` runs: cartows measured side by side with a C floor and a plain flask-sock loop."""
