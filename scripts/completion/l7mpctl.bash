# SPDX-License-Identifier: MIT
# Completion of l7mpctl for bash; names of objects and sessions are queried from the proxy.

# The first column of a list.
_l7mpctl_names() {
	local args=() i
	# The options with the API's address, as typed.
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-a | --api | -t | --token) args+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
		esac
	done
	"${COMP_WORDS[0]}" "${args[@]}" --limit 200 --timeout 2 "$1" list 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_l7mpctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} i words=() want=
	local kinds="listeners clusters rulelists rules routes"

	COMPREPLY=()
	case $prev in
	-f | --file | -t | --token)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	-o | --output)
		mapfile -t COMPREPLY < <(compgen -W "table json yaml" -- "$cur")
		return
		;;
	--mode)
		mapfile -t COMPREPLY < <(compgen -W "explicit redirect" -- "$cur")
		return
		;;
	-a | --api | -i | --interval | -n | --limit | --timeout | --image | --context | --namespace) return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "--api --token --file --output --recursive --interval --limit --timeout --wait \
			--mode --image --kubeconfig --context --namespace --version --help -a -t -f -o -r -n -i -V -h" -- "$cur")
		return
	fi
	# The words typed so far, without options.
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-a | --api | -t | --token | -f | --file | -o | --output | -i | --interval | -n | --limit | --timeout | --mode | --image | --kubeconfig | --context | --namespace) i=$((i + 1)) ;;
		-*) ;;
		*) words+=("${COMP_WORDS[i]}") ;;
		esac
	done
	case "${#words[@]} ${words[*]}" in
	"0 ") want="$kinds endpoints sessions config admin lookup explain offload flows drain upgrade doctor kube-inject kube version" ;;
	"1 rulelists") want="list get add replace delete insert remove" ;;
	"1 sessions") want="list get delete watch" ;;
	"1 endpoints" | "1 listeners" | "1 clusters" | "1 rules" | "1 routes") want="list get add replace delete" ;;
	"1 config") want="dump load check" ;;
	"1 admin") want="get set" ;;
	"1 drain") want="show cancel" ;;
	"1 upgrade") want="show" ;;
	"1 kube") want="status" ;;
	"1 lookup") want=$(_l7mpctl_names rulelists) ;;
	"1 explain") want=$(_l7mpctl_names sessions) ;;
	"1 doctor") want="all $(cd /sys/class/net 2>/dev/null && echo *)" ;;
	"2 endpoints add") want=$(_l7mpctl_names clusters) ;;
	"2 config load" | "2 config check")
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	"2 "*" get" | "2 "*" replace" | "2 "*" delete" | "2 rulelists insert" | "2 rulelists remove")
		[[ ${words[0]} == admin ]] || want=$(_l7mpctl_names "${words[0]}")
		;;
	"4 rulelists insert "*) want=$(_l7mpctl_names rules) ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$want" -- "$cur")
}
complete -o default -F _l7mpctl l7mpctl
