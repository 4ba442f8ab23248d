"""
What a TD measures after its launch: the events that extend RTMR0 to RTMR3, predicted.

No value is predicted that inputs do not decide: an event is known, or it is said what is missing.
"""
