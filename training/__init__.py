"""From labelled patches to the checkpoint that `cloudjob run` uses."""
