[timeouts]
# connect to logged in
login = "60s"
