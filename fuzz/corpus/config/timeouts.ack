[timeouts]
# RMSG sent to its 250
ack = "30s"
