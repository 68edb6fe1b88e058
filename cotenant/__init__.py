"""The contract: stubs, client and the door of the one command. Imports none of the other layers."""
