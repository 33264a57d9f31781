"""What the generation routes take and give."""

from pointsman.control.forms import llm_service, openai, plain, plg, tgi
from pointsman.control.forms.schema import Form

# By path at the root; where there are several, the body decides.
FORMS: dict[str, tuple[Form, ...]] = {
    "/v1/chat/completions": (openai.CHAT,),
    "/v1/completions": (openai.COMPLETION,),
    "/v1/embeddings": (openai.EMBEDDING,),
    "/generate": (tgi.GENERATE, plain.WITH_MODEL, plain.PROMPT),
    "/generate_stream": (tgi.STREAM,),
    "/": (tgi.ROOT,),
    "/tokenize": (tgi.TOKENIZE,),
    "/chat_tokenize": (tgi.CHAT_TOKENIZE,),
    "/info": (tgi.INFO,),
    "/complete": (plain.COMPLETE,),
    "/chat/completions": (plain.TALK,),
    "/v1/generate": (llm_service.GENERATE,),
    "/v1/chat": (llm_service.CHAT,),
    "/api/chat/stream": (plg.CHAT,),
    "/api/tasks/extract": (plg.TASKS,),
    "/api/summarization/summarize": (plg.SUMMARY,),
    "/api/title/generate": (plg.TITLE,),
}
