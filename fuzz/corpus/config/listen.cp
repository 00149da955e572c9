[listen]
# addresses for CP; [::] is both families, IPv4 alone where IPv6 is off
cp = ["[::]:5035"]
