"""Event logs of a TD: the forms they come in, what each event means, replay into the RTMRs."""
