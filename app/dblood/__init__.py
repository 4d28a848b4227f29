"""dblood, a small blood-donation API: the application that Gantry's playbooks release."""
