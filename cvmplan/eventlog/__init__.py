"""Event logs of a TD: binary CCEL and JSON, what each event means, replay into the RTMRs."""
