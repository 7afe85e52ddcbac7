"""What encoders hold, asked in two ways.

MP3S (arXiv 2308.14456) trains a `probe` on an `encoder`, frozen or tuned: layer weights and one of
the `heads` or `speaker_heads`, for each of the `tasks`.

Layer probes ask every layer by itself, without tuning: `layer_states` has what encoders make of two
corpora, `layer_probes` fits linear probes to it, `layer_figures` keeps and draws their figures.
"""
