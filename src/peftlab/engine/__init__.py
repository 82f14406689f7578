"""Plan, run, resume, calibrate and evaluate; methods only by registry name."""
