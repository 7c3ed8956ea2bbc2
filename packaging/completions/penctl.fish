complete -c penctl -l json -d 'Reply in JSON'
complete -c penctl -l help -d 'Print help'
complete -c penctl -l version -d 'Print the version'
complete -c penctl -n "test (count (string match -v -- '--*' (commandline -opc))) -eq 2" -f -a 'abort_on_error acl ascii blacklist block client_acl clients_max close conn_max connection control control_acl debug delayed_forward dsr_if dsr_ip dummy epoll exit explain hash http idle_timeout idlers include keepalive kqueue listen log mode peek pending_max pid poll prio proxy_protocol recent roundrobin sandbox select server servers socket source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent web_stats weight workers write no'
