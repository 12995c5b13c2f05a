"""What engineers do on the page: trainings, the runs they leave, and reports."""
