"""What tests share: clients, servers, waiting, fakes."""
