"""What vulture takes for dead code and is not: names that this repository defines and does not use, each group with its reason.

``make lint`` reads it. A name stands here as an attribute of ``_``; a test fails for one that is defined nowhere.
"""

# The public API: applications call these.
_.broadcast_project_created
_.broadcast_project_updated
_.broadcast_to_filtered
_.get_clients
_.get_filter
_.on_connect
_.on_disconnect
_.raise_for_rejected
_.send_to
_.set_buffer_sizes
_.set_check_origin
_.unregister_client

# A User's, by the name that FlaskLoginAuth is given; a credential provider's, which redis-py calls.
_.get_code
_.get_credentials

# wsproto calls these of an extension.
_.frame_inbound_complete
_.frame_inbound_payload_data

# http.server calls these.
_.do_GET
_.do_OPTIONS
_.do_POST
_.log_message

# Attributes that Flask, its sessions and sqlite3 read.
_.ensure_ascii
_.isolation_level
_.permanent
_.provide_automatic_options
_.secret_key
_.sort_keys

# gunicorn reads its settings by their names, and imports an app by its name.
_.cartows_app
_.chdir
_.child_exit
_.control_socket_disable
_.flask_sock_app
_.loglevel
_.post_worker_init
_.second_hub
_.socketio_app
_.worker_class

# The parameters of __exit__, and of a fixture that is asked for what it does.
_.dead_threads
_.trace

# Fields that msgspec encodes.
_.cards
_.colour
