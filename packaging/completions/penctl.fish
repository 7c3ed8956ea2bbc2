complete -c penctl -l json -d 'Reply in JSON'
complete -c penctl -l help -d 'Print help'
complete -c penctl -l version -d 'Print the version'
