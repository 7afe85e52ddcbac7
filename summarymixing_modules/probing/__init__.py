"""What encoders hold, asked in two ways.

MP3S (arXiv 2308.14456) trains a `probe` on an `encoder`, frozen or tuned: layer weights and one of
the `heads` or `speaker_heads`, for each of the `tasks`.

Layer probes ask every layer by itself, without tuning: `layer_probes` gives the `states` that
encoders make of the corpora of `layer_data` to the `linear_probes` of `layer_tasks`;
`layer_figures` draws them.
"""
